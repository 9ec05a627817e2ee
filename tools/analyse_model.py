from paddleseg_psp.commands.analyse_model import main

if __name__ == "__main__":
    main()
