from paddleseg_psp.commands.labelme2seg import main

if __name__ == "__main__":
    main()
