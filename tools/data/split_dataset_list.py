from paddleseg_psp.commands.split_list import main

if __name__ == "__main__":
    main()
